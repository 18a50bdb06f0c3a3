"""What a study is: its file, its space, its plan."""
