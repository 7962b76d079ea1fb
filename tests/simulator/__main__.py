import sys, time
from simulator.run import Plan, run
n=int(sys.argv[1]); k=int(sys.argv[2]) if len(sys.argv)>2 else 1
trace = print if len(sys.argv)>3 else None
t=time.time(); steps=0; bad=0
for seed in range(n,n+k):
    o=run(seed, Plan(trace=trace)); steps+=o.steps
    if o.violation: bad+=1; print(seed,o.violation, o.steps)
    elif k<5: print(seed, o.steps, o.seconds, o.counts)
print(steps, bad, round(steps/(time.process_time()), 0), file=sys.stderr)
