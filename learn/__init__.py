"""From recordings to networks to poses."""
