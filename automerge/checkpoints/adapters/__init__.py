"""LoRA and IA³ adapters, as PEFT writes and reads them."""
