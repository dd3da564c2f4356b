"""The page: `avset web` serves it on this machine, offline, to everyone who may reach its address.

serve     the command: a model, an address, and a server of one process
server    addresses, and who may ask: nothing of the disk is in an answer
jobs      separations that were asked for: one at a time, the others wait; what they left on the disk goes
results   what a separation becomes: sounds, pictures of sounds, frames and heat maps
examples  videos to begin with: of the model's own data, or drawn
static/   the page itself; its player is that of the report's page, in report/player
"""
