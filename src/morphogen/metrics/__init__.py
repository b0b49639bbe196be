"""Metrics: `extractors` turn items into features, `distances` turn features into numbers, `toy` judges 2-d mixtures."""
