"""Labels of several teachers, fused: networks, boxes as masks, votes, cache, scores, page."""
