"""Charts as Plotly figures, built from data frames by pure functions."""
