-- SPDX-License-Identifier: MIT
-- A C library that crashes on some inputs, in processes of its own: only the inputs that crash it are
-- lost, and the pool says which, and with what last words.

local concur = require "concur"

-- Runs in a worker. Stands for a parser in C with a bug: for a "poisoned" input it writes a complaint and
-- calls abort(), which no pcall survives.
local function parse(input)
  if input:find "poison" then
    io.stderr:write("parser: assertion failed on '", input, "'\n")
    local load = package.loadlib
    local abort = load("libc.so.6", "abort") or load("libSystem.dylib", "abort")
    abort()
  end
  return #input
end

local inputs = { "bread", "water", "poison in a cup", "salt", "a pinch of poison", "butter" }

concur.main(function()
  local pool <close> = concur.ProcessPoolExecutor { workers = 2, stderr = "tee", name = "parser" }
  local jobs = {}
  for i, input in ipairs(inputs) do
    jobs[i] = pool:options({ name = input }):submit(parse, input)
  end
  local parsed, crashed = 0, 0
  for i, result in ipairs(concur.settle(jobs)) do
    if result.ok then
      parsed = parsed + 1
      print(("%-18s %d bytes"):format(inputs[i], result.value))
    else
      crashed = crashed + 1
      local e = result.error
      assert(concur.errors.is(e, "WorkerCrashed"), e)
      print(("%-18s %s: %s"):format(inputs[i], e.signal or e.code, e.stderr:match "[^\n]*"))
    end
  end
  print(("%d parsed, %d crashed; the pool lives: %d"):format(parsed, crashed, pool:run(parse, "!")))
  assert(parsed == 4 and crashed == 2)
end)
