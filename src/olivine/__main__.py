"""`python -m olivine`, for torchrun and for machines where the script is not on the path."""

from olivine.cli import main

if __name__ == "__main__":
    main()
