from grpo_mmpc.cli import program

if __name__ == "__main__":
    program()
