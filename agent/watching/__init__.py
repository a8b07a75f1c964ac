"""The live view: what agents publish, gathered into one picture."""
