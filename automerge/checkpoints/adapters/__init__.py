"""LoRA adapters, as PEFT makes and reads them."""
