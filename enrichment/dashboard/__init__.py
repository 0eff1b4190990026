"""The Streamlit dashboard: pages and charts over the read models; changes go through the
commands.
"""
