"Everything about the distribution is said in settings.ini; this file only hands it to setuptools."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def readme(address: str) -> str:
    "The README; with the project's address its links and pictures work elsewhere too"
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    if not address: return text
    text = re.sub(r"(!\[[^]]*\]\()(?!http)", rf"\1{address}/raw/{cfg['branch']}/", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!http|#)", rf"\1{address}/blob/{cfg['branch']}/", text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme(cfg["git_url"]),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license=cfg["license"].upper(),
    keywords=cfg["keywords"],
    project_urls={"Source": cfg["git_url"]} if cfg["git_url"] else {},
    classifiers=[c.strip() for c in cfg["classifiers"].splitlines() if c.strip()],
    packages=find_packages(include=["mtt_nb", "mtt_nb.*"]),
    package_data={"mtt_nb": ["*.js", "*.css"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={extra: cfg[f"{extra}_requirements"].split() for extra in ("lab", "docs", "dev")},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
