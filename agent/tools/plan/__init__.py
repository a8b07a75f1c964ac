"""What this device can carry of a configuration, from measured and stated figures; nothing is guessed.

figures   what is known: from reports of ``agent benchmark``, from clips that are decoded here, and stated
needs     which figures a configuration needs, and how each is measured
load      what is needed of CPU, engines, GPU and memory, against what the device has
words     the plan as text and as JSON
"""
