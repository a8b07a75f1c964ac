"""The forms of a report: tables, terminal, Markdown, HTML page, chart.

tables     the figures as rows, the same in every form
terminal   for people at a terminal
progress   what runs at the moment
markdown   a document for a repository
series     what the charts show
svg        the charts of the page, inline
html       a self-contained page
chart      the charts as a PNG (matplotlib, extra ``report``)
outputs    writes the form that a file's extension names
"""
