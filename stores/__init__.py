"""The ground floor: what a recording is, where it lies, and where the hand is in it."""
