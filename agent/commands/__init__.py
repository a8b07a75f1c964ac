"""Commands over MQTT: what may be asked, who carries it out, and the one answer to each."""
