"""Logged outcomes: reading, checking, pricing, splitting."""
