"""The measurements of docs/performance.md, run by scripts/measure, and the models that they use."""
