"""Handloom weaves synthetic and unlabelled depth into a 3-D hand tracker."""

__version__ = "0.1.0"
