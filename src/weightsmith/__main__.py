from weightsmith.commands.app import main

main()
