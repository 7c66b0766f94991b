# Run once as `Rscript tests/data/network_means.R tests/data/network_means.csv`; the numbers stand in tests/test_mixed_model.py.
library(lme4)
options(digits = 12, contrasts = c("contr.sum", "contr.poly"))
table <- read.csv(commandArgs(TRUE)[1])
for (name in c("pretraining", "finetune_depth", "method")) table[[name]] <- factor(table[[name]])
table$network <- interaction(table$pretraining, table$finetune_depth, table$seed)
model <- lmer(skill ~ pretraining * finetune_depth * method + (1 | network), data = table, REML = TRUE,
              control = lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10)))
print(coef(summary(model))[, c("Estimate", "Std. Error")], digits = 10)
print(as.data.frame(VarCorr(model))[, c("grp", "vcov")], digits = 10)
cat(R.version.string, "lme4", as.character(packageVersion("lme4")), "\n")
