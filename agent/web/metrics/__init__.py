"""Figures for Prometheus.

families    every metric: name, help, labels, and where its value comes from
histograms  durations of the stages, by model
exposition  the text, for a scrape or as a file for node_exporter
"""
