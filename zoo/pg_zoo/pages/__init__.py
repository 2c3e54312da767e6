"""The pages that commands write, as Markdown and HTML."""
