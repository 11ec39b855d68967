"""``python -m duet_sdk`` is ``duet``: for launchers that start modules, such as torchrun and accelerate."""

from duet_sdk.cli.app import main

if __name__ == "__main__":
    main()
