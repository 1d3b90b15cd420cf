"""The marshmallow schema of an entity: derived or the user's own, and which columns it lets out."""
