"""From a hand mesh to labelled multi-view depth."""
