"""Building and running one agent: models, and the boundary to agno."""
