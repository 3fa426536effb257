-- SPDX-License-Identifier: MIT
-- A process pool while calls below it fail, each in turn: memory of the Lua state, of C, what libuv is
-- asked for. Whatever fails says so, and no process is left. See spec/support/faults.lua.

local children = require "spec.support.children"
local faults = require "spec.support.faults"
local support = require "spec.support"

local ERRORS = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN", "ENOSPC", "could be started" }

-- The host of the faults is no interpreter that a pool finds by itself.
local SCENARIO = ([[
  concur.run(function()
    local pool <close> = concur.ProcessPoolExecutor { workers = 1, command = HOST }
    assert(pool:run(function(a, b) return a + b end, 1, 2) == 3)
  end)
]]):gsub("HOST", ("%q"):format(support.host))

describe("calls that fail in a process pool", function()
  for name, functions in pairs {
    ["(memory of the Lua state)"] = false,
    ["(memory)"] = faults.memory,
    ["(loop)"] = faults.loop,
    ["(descriptors)"] = faults.descriptors,
    ["(handles)"] = faults.handles,
    ["(shared memory)"] = faults.sharing,
    ["(processes)"] = "fork",
    ["(interrupted)"] = faults.interrupted,
  } do
    it(name, function()
      local before = children()
      local options = { times = { "2" } }
      if functions == faults.interrupted then
        options.errno = 4
      end
      faults.fail_cleanly(faults.frame(SCENARIO, { real = true }), functions, ERRORS, options)
      assert.same(before, children())
    end)
  end

  -- In the worker: its script lets the n-th call fail, and goes on as every worker does. The pool's
  -- answer is the result, or an error that says what became of the worker; a second try, without
  -- faults, succeeds.
  it("(in the worker)", function()
    local directory = support.tmpdir()
    support.write_file(directory .. "/worker.lua", [[
      local n, functions = ...
      testhost.fail(functions, math.tointeger(tonumber(n)), 2)
      require("concur.process_worker").run()
    ]])
    support.write_file(directory .. "/pools.lua", [[
      local concur = require "concur"
      local host, worker, functions, last = ...
      local EXPECTED = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN", "ENOSPC",
        "could be started", "WorkerCrashed", "BrokenExecutor" }
      local function is_expected(err)
        local text = concur.errors.format(err)
        for _, each in ipairs(EXPECTED) do
          if text:find(each, 1, true) then return true end
        end
      end
      local refused = 0
      local n = 1
      while n <= tonumber(last) do
        local pool <close> = concur.ProcessPoolExecutor { workers = 1, max_crashes = 1,
          stderr = "discard", command = { host, worker, tostring(n), functions } }
        local ok, result = pcall(concur.timeout, 60, pool.run, pool, function(a, b)
          return a + b, ("x"):rep(100000)
        end, 1, 2)
        assert(ok and result == 3 or not ok and is_expected(result), n .. ": " .. tostring(result))
        refused = refused + (ok and 0 or 1)
        n = n + 1 + n // 8
      end
      print(refused)
    ]])
    for _, functions in ipairs { faults.memory, faults.loop .. " " .. faults.primitives,
      faults.handles .. " " .. faults.sharing .. " " .. faults.descriptors } do
      local before = children()
      local env = faults.environment(true)
      local result = support.execute({ support.host, directory .. "/pools.lua", support.host,
        directory .. "/worker.lua", " " .. functions .. " ", "60" }, { timeout = 60, env = env })
      assert.equal(0, result.code, support.describe(result))
      if functions == faults.memory then
        assert.is_true(tonumber(result.stdout) > 5, "next to nothing failed")
      end
      assert.same(before, children())
    end
  end)
end)
