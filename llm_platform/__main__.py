"""`python -m llm_platform` is the command `llm-platform`."""

from llm_platform.cli import main

if __name__ == "__main__":
    main()
