"""Page, table and SVG primitives; knows no system."""
