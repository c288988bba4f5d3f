"""The validation agent: rules of data quality; what breaks one is an alert and a message while it lasts."""
