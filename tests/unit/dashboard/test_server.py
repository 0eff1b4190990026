"""The settings with which Streamlit is started."""

from __future__ import annotations

import pytest
import streamlit as st

from enrichment.dashboard.server import OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_streamlit_knows_each_option(name: str) -> None:
    st.get_option(name)  # it raises where there is none


def test_no_collection_of_all_objects_follows_each_refresh() -> None:
    """With Streamlit's default, one open page takes 100 ms every two seconds."""
    assert st.get_option("runner.postScriptGC") is True
    assert OPTIONS["runner.postScriptGC"] is False
