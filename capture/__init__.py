"""From depth cameras to unlabelled multi-view recordings."""
