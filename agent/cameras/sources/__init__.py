"""Where frames come from: one file for each kind of source, the contract and the choice among them in ``base``."""
