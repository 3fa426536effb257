-- SPDX-License-Identifier: MIT
-- Out of memory: the 1st, 2nd, 3rd... allocation of a scenario's Lua state fails until it succeeds
-- untouched; how is in spec/support/faults.lua. Each failure is an error that says so.

local faults = require "spec.support.faults"

local oom = {}

-- With `times` failures in a row, or without end: one more than Lua's own retry after a collection
-- is a shortage that passes, and clean-up has memory again; without end it has not.
function oom.fails_cleanly(code)
  faults.fail_cleanly(code, false, { "not enough memory" }, { times = { "2", "all" } })
end

---Runs the body of a scenario, framed, in the same way. It may use `concur`, `errors` and `runner`.
---@param body string
function oom.scenario_fails_cleanly(body)
  oom.fails_cleanly(faults.frame(body))
end

return oom
