"""Alerts: rules over the figures that the screens show, judged every minute, delivered for sure."""
