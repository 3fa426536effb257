-- SPDX-License-Identifier: MIT
--
-- Signals of the operating system as something to wait for. The work is done in C:
-- csrc/disposition.c knows who gets a signal, csrc/signal_receiver.c has the receivers.

local core = require "concur.core"

---Signals of the operating system as something to wait for.
---@class concur.signal
local signal = {}

---Receives signals: `for name in signal.receive("SIGTERM", "SIGHUP") do ... end`. Opening never
---suspends; the iterator does. From here until it is closed the signals come to their receivers
---instead of doing what they did before; of several receivers each gets every signal. Raises an
---argument error for an unknown name and for a signal that cannot be received.
---@param name string such as `"SIGTERM"`
---@param ... string more of them
---@return concur.signal.Receiver it returns the next name, waiting for one; `nil` once closed
---@return nil
---@return nil
---@return concur.signal.Receiver it the same, for the loop to close
signal.receive = core.receive_signals

---Sends a signal to this process. Never suspends.
---@param name string
---@return true|nil
---@return concur.Error|nil err of kind `OSError`
signal.raise = core.raise_signal

return signal
