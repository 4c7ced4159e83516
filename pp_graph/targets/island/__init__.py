"""The f32 island: the post-processing stays in float32 whatever happens to the network around it."""
