"""The Streamlit dashboard: pages and charts of what the read models return. All changes are made
by the commands.
"""
