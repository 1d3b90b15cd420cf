"""The files of the mirror: directories, names of the moment, contents, and how each is whole at any instant."""
