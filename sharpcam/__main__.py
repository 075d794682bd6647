from sharpcam.cli import main

main()
