"""For work on the project itself: lock files, house rules, the material of the demo."""
