"""The f32 island: the post-processing inside a converted model, kept in float32."""
