"""Figures for Prometheus.

family      what a metric is, and the parts that its samples come from
families    every metric of the agent's own: name, help, labels, and where its value comes from
triton      those with Triton's names and meaning
histograms  durations of the stages, by model
collector   all of them from one look at the parts
exposition  the text, for a scrape or as a file for node_exporter
"""
