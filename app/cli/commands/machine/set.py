import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from app.cli.commands.machine import examples, existing_name, name_and_changes
from app.cli.context import Context
from app.cli.output import print_json


def configure(parser: ArgumentParser) -> None:
    from vmbackend import SETTING_KEYS

    width = max(map(len, SETTING_KEYS))
    keys = "\n".join(f"  {name:{width}}  {key.help}" for name, key in SETTING_KEYS.items())
    parser.usage = "wherry machine set [NAME] [KEY=VALUE...]"
    parser.epilog = f"settings:\n{keys}\n\n" + examples("set", "set memory=4G cpus=4", "set big disk=200G")
    parser.add_argument("--json", action="store_true", help="show the settings for programs")
    parser.add_argument("words", nargs="*", metavar="NAME or KEY=VALUE", help="nothing to change: show them")


def run(context: Context, arguments: Namespace) -> int:
    from vmbackend import setting_texts

    name, changes = name_and_changes(context, arguments.words)
    existing_name(context, name)
    if changes:
        change(context, name, changes)
        return 0
    texts = setting_texts(context.machines.settings(name))
    if arguments.json:
        print_json(texts)
    else:
        sys.stdout.writelines(f"{key}={value}\n" for key, value in texts.items())
    return 0


def change(context: Context, name: str, changes: Mapping[str, str]) -> None:
    """Change settings, and say which of them a running machine does not follow yet. Raises MachineError."""
    from vmbackend import changed_settings

    waiting = context.machines.set(name, changed_settings(context.machines.settings(name), changes))
    if waiting:
        sys.stdout.write(
            f"Takes effect when the machine is restarted: {', '.join(waiting)}.\nRun: wherry machine restart {name}\n"
        )
