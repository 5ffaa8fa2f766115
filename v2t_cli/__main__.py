from v2t_cli.cli import app

if __name__ == "__main__":
    app(prog_name="v2t")
