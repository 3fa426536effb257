-- SPDX-License-Identifier: MIT
-- Runs code in a loop whose clock is virtual, for specs: an hour of sleeping takes no time, and the
-- times that a spec compares are exact.

local concur = require "concur"

local virtual = {}

local function run(main, reports, ...)
  local runner <close> = concur.Runner {
    clock = concur.testing.Clock(),
    on_error = function(...)
      reports.n = reports.n + 1
      reports[reports.n] = table.pack(...)
    end,
  }
  return table.pack(runner:run(main, ...))
end

---Runs `main(...)` and returns its results. Fails if anything was handed to `on_error`.
---@param main function
---@return any ...
function virtual.run(main, ...)
  local reports = { n = 0 }
  local results = run(main, reports, ...)
  if reports.n > 0 then
    local lines = {}
    for i = 1, reports.n do
      lines[i] = concur.errors.format(reports[i][1])
    end
    error("on_error was called:\n" .. table.concat(lines, "\n"), 2)
  end
  return table.unpack(results, 1, results.n)
end

---Runs `main(...)` and returns what `on_error` was called with: a list (with `n`) of errors, which
---may be nil, and the list of all arguments of each call.
---@param main function
---@return table errors
---@return table calls
function virtual.reports(main, ...)
  local reports, list = { n = 0 }, { n = 0 }
  run(main, reports, ...)
  for i = 1, reports.n do
    list[i] = reports[i][1]
  end
  list.n = reports.n
  return list, reports
end

---Calls `fn(...)`, which must raise, and returns the error.
---@param fn function
---@return any
function virtual.failure(fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then
    error("an error was expected, but the call returned " .. tostring(results[2]), 2)
  end
  return results[2]
end

---The same, and the error must be a library error of this kind.
---@param kind string
---@param fn function
---@return concur.Error
function virtual.failure_of_kind(kind, fn, ...)
  local e = virtual.failure(fn, ...)
  if not concur.errors.is(e, kind) then
    error("an error of kind " .. kind .. " was expected, not: " .. concur.errors.format(e), 2)
  end
  return e
end

return virtual
