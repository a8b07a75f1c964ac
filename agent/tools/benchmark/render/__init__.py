"""The forms of a report: tables, terminal, Markdown, HTML page, chart.

tables     the figures as rows, the same in every form
terminal   for people at a terminal
progress   what runs at the moment
markdown   a page for a repository
html       a page by itself, with its chart
chart      the chart of that page
"""
