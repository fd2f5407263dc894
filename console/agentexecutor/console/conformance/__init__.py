"""The conformance kit: plays a coordinator to an agent in any language, and says what it does wrong (docs/protocol.md section 12)."""
