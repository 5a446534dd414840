"""LoRA adapters, as PEFT writes and reads them."""
