from weightsmith.cli.main import main

main()
