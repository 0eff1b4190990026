"""Alerts: rules over metrics, evaluated every minute, with notifications by channel."""
