-- SPDX-License-Identifier: MIT
-- Worker processes whose pool lies, breaks the rules or is gone: each ends at once, whatever it was
-- told. spec/host/lying_pool.c is the pool; the other direction is in process_pool_crash_spec.lua.

local build = require "spec.support.c_program"
local concur = require "concur"
local support = require "spec.support"

describe("a worker process", function()
  local lying_pool, path

  -- What an honest pool sends first, taken down by a worker that is none.
  local function record_setup()
    local pool <close> = concur.ProcessPoolExecutor {
      workers = 1,
      max_crashes = 1,
      command = { support.lua, support.root .. "/spec/support/liar.lua", "record", path },
    }
    pcall(pool.run, pool, math.abs, 1)
  end

  before_each(function()
    lying_pool = build("lying_pool", { "process_link", "frame", "message", "ring" })
    path = support.tmpdir() .. "/setup"
  end)

  local function tell(lie)
    local command = require("concur.process_worker").command()
    local result = support.execute({ lying_pool, lie, path, table.unpack(command) }, {
      timeout = 30 * support.time_scale,
    })
    assert(result.code == 0, support.describe(result))
    return result
  end

  it("ends when its pool is gone, or says what no pool says", function()
    record_setup()
    for _, lie in ipairs {
      "gone", "no_bell", "positions", "answer", "early_job", "slot", "setup_twice",
    } do
      local result = tell(lie)
      assert.equal("exit 0\n", result.stdout, lie .. ": " .. support.describe(result))
      assert.equal("", result.stderr, lie)
    end
  end)

  ---Each lie ends the worker with a message that matches its pattern.
  local function complains(patterns)
    for lie, pattern in pairs(patterns) do
      local result = tell(lie)
      assert.equal("exit 1\n", result.stdout, lie .. ": " .. support.describe(result))
      assert.matches(pattern, result.stderr)
    end
  end

  it("says what it cannot read", function()
    complains {
      no_frame = "^concur: .*a worker's pool sent bytes that are no frame",
      empty_setup = "^concur: .*cannot be set up",
      short_setup = "^concur: .*cannot be set up",
      huge_setup = "^concur: .*cannot be set up",
    }
  end)

  it("says what it is when it was not started by a pool, or by that of another version", function()
    complains {
      no_link = "no process that a ProcessPoolExecutor has started",
      other_memory = "no process that a ProcessPoolExecutor has started",
      small_memory = "no process that a ProcessPoolExecutor has started",
      version = "belongs to another version of concur",
    }
  end)
end)
