"""From the scores of a frame to its record, and from a stream of them to stable labels.

classifications  from scores to the published record
votes            the votes of the latest results: counted, or by how long they hold
decision         from a stream of scores to a stable label, or to each of several
standing         in words, where a decision stands and what would change it
"""
